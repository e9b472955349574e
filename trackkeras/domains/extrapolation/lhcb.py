"""provisional"""
DESCRIPTION = "provisional"
TERMS = ((-1.0182, 5007.0, 1744.0, 0.0),)
