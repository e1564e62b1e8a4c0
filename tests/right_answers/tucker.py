"""Right answers to the exercises of lesson 03."""

RIGHT = {}
