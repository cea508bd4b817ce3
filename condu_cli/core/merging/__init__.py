"""The method itself: masks, rescalers, unify and decouple."""
