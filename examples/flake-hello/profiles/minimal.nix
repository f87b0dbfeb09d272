# What is made has a directory `rootfs`: that is the root.
{ greeting = "hello"; place = "rootfs"; }
