"""What `GET /openapi.json` tells: the routes as an OpenAPI 3.1 document.  Pure.

document     the whole: one path item a route, made from `worker.app.ROUTES`
operations   what each endpoint takes and gives, beyond what its route and its docstring say
schema       types of this code as JSON schemas
requests     Anthropic's request, which the code reads field by field, as types
answers      what endpoints answer, as types
"""
