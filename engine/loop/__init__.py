"""Running a sample set: slots, flights, reading ahead and writing behind."""
