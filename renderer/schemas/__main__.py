"""`python -m renderer.schemas` writes the committed schemas anew."""

from renderer.schemas import write_all

write_all()
