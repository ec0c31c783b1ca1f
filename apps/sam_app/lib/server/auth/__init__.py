"""Who may use the server: API keys, OpenID Connect, roles; :func:`lib.server.auth.setup.install` puts it in place."""
