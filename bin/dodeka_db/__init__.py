"""What the dodeka-db scripts share: one module for each outside thing, two flows (backup, restore)."""
