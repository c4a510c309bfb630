"""What to look at in the morning: plan, sidecars and summary ▶ a folder with one page that needs no network.

`gather` makes frozen values of what is there, `plots` draws figures from them, `page` writes HTML, `thumbnails` the
small pictures. Template, script and stylesheet stand beside. Reads sidecars, summary and log; renders nothing.
"""
