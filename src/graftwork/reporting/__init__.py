"""A report on an adapter: one document of sections, drawn as HTML, Markdown or JSON.

It knows no model and no file: whoever calls brings what was measured (see `graftwork.evaluation`).
"""
