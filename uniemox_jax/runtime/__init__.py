"""Processes, disks, devices, command lines and logs: what every verb runs on."""
