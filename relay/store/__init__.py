"""The store: every table, every SQL statement, and the engines that run them."""
