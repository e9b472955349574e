"""SpinQuest dimuon spectrometer: hits of many tracks become the hit arrays and momenta of a mu+ and a mu-."""
