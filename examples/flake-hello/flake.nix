{
  description = "A guest that says hello, made without any input";

  outputs = { self }:
    let
      system = "x86_64-linux";
      # What a profile says stands in the environment of the program that makes the root.
      make = profile: derivation ({
        name = "hello";
        inherit system;
        builder = "/bin/sh";
        args = [ ./make.sh ];
      } // import profile);
    in
    {
      # Built is the first of tenant-<role>-<profile>, tenant-<profile> and <profile>.
      packages.${system} = {
        tenant-minimal = make ./profiles/minimal.nix;
        linked = make ./profiles/linked.nix;
      };
    };
}
