"""Which tasks a picture belongs to: prototypes and the routers that read them."""
