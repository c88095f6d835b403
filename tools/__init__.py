"""Programs that put load on a server and measure it: loadtest.py, bench.py, soak.py. And install.py, alone.

    commands   their command lines
    load       the clients of a load test and of a soak, and what is reported of them
    measures   one file per figure: `async def figure(bed, plan) -> Sheet`
    readers    many readers of one server at once
    servers    servers under test, and other processes that are measured
    clients    one client: what it asks, how it behaves, what it saw
    sheets     what is printed and written

Each imports only what is below it in this list.
"""
