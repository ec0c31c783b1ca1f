"""What the app adds to MONAI Label's server and mends in it; :func:`lib.server.mount.mount` does it all."""
