"""What to look at in the morning: plan, sidecars and summary ▶ a folder with one page that needs no network.

`gather` makes frozen values of what is there, `plots` draws figures from them, `page` writes HTML, `thumbnails` the
small pictures, `made_by` says what each of several made, `best` chooses those for a message. `likeness` says how
alike two pictures are (`perception`: to people's eyes), `exporting` copies chosen ones with a table. Template, script
and stylesheet stand beside. While a run is on, `gallery` knows what has changed. Reads sidecars, journal, summary and
log; renders nothing, and knows no HTTP.
"""
