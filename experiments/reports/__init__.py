"""What a report is made of: records, result files, entries (results read), tables, figures, pages."""
