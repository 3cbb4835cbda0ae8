"""Attacks: projected ascent of an objective `x_adv -> scalar` inside a ball around the image."""
