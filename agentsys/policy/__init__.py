"""The owner's word as data: what tools' arguments mean, who may learn what, who may vouch for what, and how often."""
