"""What ``make bench`` runs: costs per message, in one run, beside a yardstick."""
