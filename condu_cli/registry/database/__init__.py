"""condu.sqlite: connections, tables, rows, marks beside the manifests, migration."""
