"""`kzpark validate`: callflow documents, single nodes and bare data of park nodes, checked in CI.

scan -> documents -> rules -> report. Reads files, writes findings; knows no broker and no clock.
"""
