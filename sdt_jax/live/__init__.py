"""The live program: gestures for sound that is still being recorded.

`__main__.py` has the flags, `server.py` the web application, `session.py` one client,
`page/` what the browser shows. docs/live.md describes the protocol.
"""
