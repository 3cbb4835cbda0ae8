"""What a report is made of: entries (results read), tables, pictures."""
