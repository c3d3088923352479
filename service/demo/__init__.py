"""The whole path on one machine: a supervisor for server, worker and agent, and the story they tell."""
