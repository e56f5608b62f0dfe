"""Documents of cutaway, and what makes a site of them."""
