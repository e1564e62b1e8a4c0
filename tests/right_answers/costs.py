"""Right answers to the exercises of lesson 07."""

RIGHT = {}
