"""What the app adds to MONAI Label's server and mends in it; :func:`lib.server.app.mount` does it all."""
