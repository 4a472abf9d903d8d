"""Pictures and sounds from files to what a tower takes."""
