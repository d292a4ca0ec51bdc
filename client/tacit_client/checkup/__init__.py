"""What `tacit-client doctor` looks at, one subject in a file; `tacit_client.doctor` puts them in order."""
