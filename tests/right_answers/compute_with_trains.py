"""Right answers to the exercises of lesson 20."""

RIGHT = {}
