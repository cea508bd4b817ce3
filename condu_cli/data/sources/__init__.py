"""Where labelled pictures come from: folders, lists, Hugging Face, public sets, embedded."""
