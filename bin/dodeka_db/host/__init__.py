"""This machine: programs, processes, disks, services."""
