"""The detector domains. A folder here that offers `DOMAIN` is a domain; nothing else lists it."""
