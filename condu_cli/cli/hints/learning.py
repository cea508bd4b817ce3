"""What to do about failures of learning, evaluating and predicting."""

from condu_cli.cli.hints.table import Hint

HINTS: dict[str, Hint] = {
    # Training
    "diverged": "Lower the learning rate (it was --lr {learning_rate:g})",
    "batch-too-small": "Raise --batch-size, or use fewer --devices",
    "run-of-other-parameters": "condu learn --task {task!q} --retrain{here} begins it anew",
}
