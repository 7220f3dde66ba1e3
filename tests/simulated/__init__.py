"""Seeded fault schedules in virtual time."""
