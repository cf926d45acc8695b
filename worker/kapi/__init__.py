"""Kazoo's wire words: keys, addresses, envelopes, commands, events, results, schemas.

Pure: bytes and dicts in and out; no sockets, no clock, no random. Ids come in as arguments.
Contract sections are those of the Kazoo wire contract.
"""
