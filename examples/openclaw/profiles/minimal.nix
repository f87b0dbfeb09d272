{ applets = "cat grep hostname httpd ls mkdir nc sh sleep touch wget"; }
