"""Lettering: which texts a prompt asks for, what is read in a picture, and how near the one is to the other.

    quotes    what stands between quotation marks in a prompt
    scores    how near what was read is to what was wanted
    installed whether there is a reader here
    asking    a reader as its owner sees it: a process that is asked for one picture after the other
    ocr       that process, and the only module with an OCR in it

Knows no folders, no plans and no engines.
"""
