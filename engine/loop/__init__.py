"""Running a set: slots, flights, reading ahead and writing behind."""
