"""What lies between server and partner."""
