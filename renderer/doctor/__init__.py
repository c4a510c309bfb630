"""What is wrong with a machine, and what to do.

`diagnosis` gathers, `findings` and `card_findings` judge, `finding` has the values between them. Prints nothing.
"""
