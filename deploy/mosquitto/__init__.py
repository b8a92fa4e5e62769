"""mosquitto: the configuration for a city, and what it was measured to keep."""
