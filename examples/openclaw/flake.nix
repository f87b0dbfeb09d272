{
  description = "Gateways and workers for `mvm new openclaw`, made without any input";

  outputs = { self }:
    let
      system = "x86_64-linux";
      # A role says which program starts; a profile says which of busybox's applets its guests have.
      make = role: profile: derivation ({
        name = "openclaw";
        inherit system;
        builder = "/bin/sh";
        args = [ ./make.sh ];
      } // import profile // import role);
    in
    {
      # Built is the first of tenant-<role>-<profile>, tenant-<profile> and <profile>.
      packages.${system} = {
        tenant-gateway-minimal = make ./roles/gateway.nix ./profiles/minimal.nix;
        tenant-worker-minimal = make ./roles/worker.nix ./profiles/minimal.nix;
      };
    };
}
