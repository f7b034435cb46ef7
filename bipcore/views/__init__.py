"""Results as tables, figures and HTML: data in, picture out.

The only folder that knows plotly, which is imported inside the functions that draw. It may import
`studies` and what that may.
"""
