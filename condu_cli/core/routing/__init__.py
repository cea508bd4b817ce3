"""Find the tasks that a picture belongs to: prototypes and routers."""
