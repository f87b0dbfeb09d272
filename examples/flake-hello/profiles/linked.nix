# What is made stays in the store, and the root has links to it.
{ greeting = "hello from the store"; place = "."; }
