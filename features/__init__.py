"""What is known about a customer on a date: contracts, labels, feature definitions, the point-in-time build."""
