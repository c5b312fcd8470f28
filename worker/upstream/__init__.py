"""The way to the providers: one client each, over our own HTTP/1.1 transport, and the policy of trying again."""
