"""Pictures and pages made from the records of finished or running runs."""
