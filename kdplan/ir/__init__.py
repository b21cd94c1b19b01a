"""The typed core plan that every front end produces and every later step reads."""
