"""Right answers to the exercises of lesson 10."""

RIGHT = {}
