"""What answers must look like: grammars of clients, made masks over a model's vocabulary.

    source        a grammar in the words that llguidance takes
    child         compiles such a source in a process that may die of it
    trial         the side of the server: nothing is compiled in it that did not end well there
    constraints   the masks

All without an event loop.
"""
