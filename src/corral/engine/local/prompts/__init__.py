"""How a conversation becomes tokens, so that nothing a client sends and nothing a model file says does harm.

    bounds        what cannot fit is refused before anything is done for it
    conversation  a request in the shape that chat templates expect
    control       where control tokens are in a text
    disguise      a client's text made such that it cannot be one, whatever a template does to it
    writer        template, disguise and tokenizer together: one prompt
    child, wire   the writer in a process that may be ended, and what is said to it
    turns         whose prompt is next
    pool          the trio side: a few such processes, and the queue in front of them
    inline        the same interface without processes, for a model that is no file

All but the last two are without an event loop.
"""
